"""The command line as a script, so that several processes can be launched from it."""

from infoprune.cli import main

if __name__ == "__main__":
    main()
