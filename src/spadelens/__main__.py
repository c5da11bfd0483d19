"""`python -m spadelens` is the command line."""

from spadelens.cli.main import main

if __name__ == "__main__":
    main()
