"""The `apprentice` command: its groups, its exit codes.

Belongs here: assembling the commands and mapping errors. Does not: the commands themselves
(`setup`, `keys`, `traffic`, `models`, `service`, each by what its user is about to do).
Nothing heavy is imported before a command runs: `apprentice --help` is instant.
"""

from __future__ import annotations

import sys

import click

from apprentice_pipeline import __version__
from apprentice_pipeline.cli import keys, models, service, setup, traffic
from apprentice_pipeline.cli.terminal import report_failure
from apprentice_pipeline.errors import ApprenticeError, StorageFull, UsageError

COMMANDS = (
    setup.init,
    setup.doctor,
    keys.key,
    keys.provider_key,
    traffic.capture,
    traffic.labels,
    traffic.import_,
    traffic.feedback,
    traffic.erase,
    models.distill,
    models.inspect,
    models.verify,
    models.diff,
    models.promote,
    models.rollback,
    service.serve,
    service.dev,
    service.run,
    service.status,
    service.report,
    service.simulate,
    service.demo,
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="apprentice")
def apprentice() -> None:
    """Turns paid frontier calls into a local model you own, and proves what it is made of."""


for command in COMMANDS:
    apprentice.add_command(command)


def main(argv: list[str] | None = None) -> int:
    """Runs one command. Exit 0 done; 1 refused or failed, with the remedy; 2 usage."""
    arguments = sys.argv[1:] if argv is None else argv
    as_json = "--json" in arguments
    try:
        status = apprentice.main(arguments, prog_name="apprentice", standalone_mode=False)
    except ApprenticeError as error:
        return report_failure(error, as_json=as_json)
    except click.ClickException as error:
        wrong = UsageError(error.format_message(), remedy="see --help")
        return report_failure(wrong, as_json=as_json, exit_code=error.exit_code)
    except click.Abort as abort:
        stopped = isinstance(abort.__cause__, KeyboardInterrupt)
        click.echo("interrupted" if stopped else "nothing was done", err=True)
        return 130 if stopped else 1
    except BrokenPipeError:
        return 0
    except OSError as error:
        wrong_file = _full_disk(error) or _unreadable(error)
        return report_failure(wrong_file, as_json=as_json)
    except Exception as error:
        if (full := _full_disk(error)) is None:
            raise
        return report_failure(full, as_json=as_json)
    return status if isinstance(status, int) else 0


def _full_disk(error: Exception) -> StorageFull | None:
    """What a foreign error is, where it means that a database or a file had no room to grow."""
    from apprentice_pipeline.store.full_disk import means_full

    if not means_full(error):
        return None
    return StorageFull(
        "a disk is full: what this command records (Dagster, MLflow, files) could not be written",
        remedy="free space on the disk of APPRENTICE_HOME, then run the command again",
    )


def _unreadable(error: OSError) -> ApprenticeError:
    """A file or folder named on the command line that cannot be read or written."""
    where = f" {error.filename}" if error.filename else ""
    return ApprenticeError(
        f"cannot use{where}: {error.strerror}", remedy="check the path, its permissions and space"
    )


if __name__ == "__main__":
    sys.exit(main())
