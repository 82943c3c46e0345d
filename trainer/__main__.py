"""`python -m trainer`."""

import sys

if __name__ == "__main__":
    from trainer.huge_pages import restart_with_huge_pages

    restart_with_huge_pages()  # before anything else is imported, as all of that is lost

    from trainer.cli import main

    sys.exit(main())
