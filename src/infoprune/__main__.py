"""``python -m infoprune``: the command line."""

from infoprune.cli import main

if __name__ == "__main__":
    main()
