"""`python -m factory` is the `factory` command."""

from factory.cli.main import main

if __name__ == "__main__":
    main()
