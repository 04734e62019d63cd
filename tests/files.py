"""What tests of files share: headers, and processes that may be killed."""

import json
import os

import pytest

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that are forked")


def in_child(action):
    """The number of a process that does something."""
    child = os.fork()
    if child:
        return child
    try:
        action()
        os._exit(0)
    except BaseException:
        os._exit(1)


def header_of(path):
    whole = path.read_bytes()
    return json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])["__metadata__"]
