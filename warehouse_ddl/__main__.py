"""`python -m warehouse_ddl [--check]`: write, or only compare, the DDL that follows from the models."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from transforms.contract import ContractError
from warehouse_ddl.files import HERE, differing, write


def main(arguments: list[str] | None = None, tables: Path = HERE / "tables") -> int:
    """Run the command; 1 when `--check` finds a difference, 2 when a model can't be read."""
    parser = argparse.ArgumentParser(prog="python -m warehouse_ddl", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 when a file differs")
    options = parser.parse_args(arguments)
    try:
        changed = differing(folder=tables) if options.check else write(folder=tables)
    except ContractError as error:
        print(error, file=sys.stderr)
        return 2
    folder = f"{HERE.name}/tables"
    if options.check and changed:
        print(f"These files of {folder} are not what the models say; run `python -m warehouse_ddl`:")
        print("\n".join(f"  {name}" for name in changed))
        return 1
    done = [f"{'wrote' if (tables / name).exists() else 'removed'} {folder}/{name}" for name in changed]
    print("\n".join(done) or f"{folder} is up to date.")
    return 0


if __name__ == "__main__":
    # Where nobody reads any more (`| head`) it ends as other tools do; all is written before it says a word.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
