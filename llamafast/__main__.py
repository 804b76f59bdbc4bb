"""`python -m llamafast`."""

from llamafast.launch.cli import main

if __name__ == "__main__":
    main()
