"""`purekv policies`: how the cache can be pruned, and where each way comes from."""

from rich.table import Table

from purekv_cli.commands.options import JsonFlag, with_flags
from purekv_cli.report.record import SCHEMA_VERSION, dumps
from purekv_cli.terminal import page


@with_flags
def policies(*, flags: JsonFlag) -> None:
    """List the pruning policies."""
    from purekv_cli.method.policies import POLICIES

    rows = [(name, policy.summary, policy.source) for name, policy in POLICIES.items()]
    if flags.json:
        named = [dict(zip(("name", "summary", "source"), row, strict=True)) for row in rows]
        print(dumps({"schema_version": SCHEMA_VERSION, "policies": named}), end="")
        return
    table = Table("policy", "what stays", "source", box=None, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*row)
    page().print(table)
