"""The messages of docs/reliability.md are those that come."""

import pytest

from tests.bad_inputs import BAD_INPUTS, BEGIN, END, PAGE, row


@pytest.mark.parametrize("what", list(BAD_INPUTS))
def test_the_page_has_the_message_of_each_bad_input(what):
    assert row(what) in PAGE.read_text().splitlines()


def test_the_page_lists_no_other_bad_inputs():
    lines = PAGE.read_text().split(BEGIN)[1].split(END)[0].strip().splitlines()
    assert len(lines) - 2 == len(BAD_INPUTS)
