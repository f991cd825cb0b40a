"""`python -m rpg` is `rpg`."""

from __future__ import annotations

from rpg.cli import main

if __name__ == "__main__":
    main()
