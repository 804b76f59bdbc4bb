"""`python -m llamafast`."""

from llamafast.cli import main

if __name__ == "__main__":
    main()
