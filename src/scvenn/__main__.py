"""``python -m scvenn`` is the command ``scvenn``."""

from scvenn.cli import main

if __name__ == "__main__":
    main()
