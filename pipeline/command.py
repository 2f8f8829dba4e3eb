"""Where the `streamixture` command begins: with stop signals, and then everything else.

Worker processes import this module again before their device is set, and it alone.
"""

from pipeline import stopping


def main() -> None:
    """Run the command line, and take stop signals from here to the end."""
    with stopping.whole_process():
        from pipeline.cli import main as command

        command()
