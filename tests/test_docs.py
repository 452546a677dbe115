"""The code in docs/ runs as it stands."""

import re
from pathlib import Path

import pytest

PAGES = {
    page: re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    for page in sorted((Path(__file__).parent.parent / "docs").glob("*.md"))
}
WITH_CODE = [page for page, blocks in PAGES.items() if blocks]


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs_in_order(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scope: dict[str, object] = {}
    for block in PAGES[page]:
        exec(compile(block, str(page), "exec"), scope)
    assert capsys.readouterr().out.strip()


def test_the_page_on_python_has_code() -> None:
    assert "in-python" in [page.stem for page in WITH_CODE]
