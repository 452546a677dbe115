"""`python -m purekv_cli` is `purekv`."""

from purekv_cli.app import main

main()
