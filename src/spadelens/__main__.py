"""`python -m spadelens` is the command line."""

from spadelens.present.cli import main

if __name__ == "__main__":
    main()
