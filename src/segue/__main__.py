"""Run Segue as `python -m segue`, where the `segue` script is not on the path."""

from segue.cli import main

if __name__ == "__main__":
    main()
