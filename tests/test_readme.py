"""The README says what the code does."""

from pathlib import Path

from purekv_cli.commands.reference import renewed

ROOT = Path(__file__).parent.parent


def test_the_table_of_flags_is_the_codes() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert renewed(text) == text, "renew it: python -m purekv_cli.commands.reference README.md"


def test_the_two_commands_of_the_readme_are_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "\ndemo:" in makefile
    assert "\ntest:" in makefile
