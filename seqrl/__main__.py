"""``python -m seqrl`` is ``seqrl``."""

from seqrl.cli.app import main

main()
