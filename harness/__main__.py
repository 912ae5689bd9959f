"""`python -m harness` and the `harness` command."""

from harness.cli import app


def main() -> None:
    app(prog_name="harness")


if __name__ == "__main__":
    main()
