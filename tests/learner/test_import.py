"""What an import costs: everything else is imported when it is used."""

import subprocess
import sys


def loaded_after(code: str) -> set[str]:
    """Top-level packages in memory after some code, in a fresh interpreter."""
    program = f"import sys\n{code}\nprint(' '.join(m for m in sys.modules if '.' not in m))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_importing_fairmt_imports_nothing_heavy() -> None:
    heavy = {"torch", "pandas", "sklearn", "duckdb", "matplotlib", "lightning_fabric", "jinja2"}
    assert not heavy & loaded_after("import fairmt")


def test_the_pytorch_face_needs_no_tables() -> None:
    loaded = loaded_after("from fairmt import FairMT, MLP, Groups, Classification")
    assert "torch" in loaded
    assert not {"pandas", "sklearn", "duckdb", "pyarrow", "lightning_fabric"} & loaded


def test_the_shell_lists_its_commands_without_torch() -> None:
    assert "torch" not in loaded_after("import fairmt.cli")
