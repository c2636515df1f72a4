"""`python -m trioserver`."""

from trioserver.cli.main import main

if __name__ == "__main__":
    main(prog_name="trioserver")
