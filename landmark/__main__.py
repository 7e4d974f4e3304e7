"""`python -m landmark VERB …`."""

from landmark.cli import main

if __name__ == "__main__":
    main()
