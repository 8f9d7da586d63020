import pytest

pytest.register_assert_rewrite("faults.harness")


def pytest_terminal_summary(terminalreporter):
    from faults.harness import tried

    if tried:
        counts = ", ".join(f"{count} {how}" for how, count in sorted(tried.items()))
        failed = len(terminalreporter.stats.get("failed", []))
        terminalreporter.write_line(f"runs with a fault: {counts}; tests that found something lost: {failed}")
