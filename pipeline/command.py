"""Where the `streamixture` command begins: with stop signals, before anything slow."""

from pipeline import stopping


def main() -> None:
    """Run the command line, and take stop signals from here to the end."""
    with stopping.whole_process():
        from pipeline.cli import main as command

        command()
