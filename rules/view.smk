"""In a terminal, a live view shows the jobs that run, in place of what Snakemake says of them.

It is not one of Snakemake's logger plugins: those are top-level packages of the Python environment, so a checkout that
is not installed there would not start, and one of several that share it would have the view of another.
"""

import logging

from snakemake.settings.enums import Quietness

from hexport.progress import IN_VIEW

# Of what Snakemake says of no job: what a user waits for, or has asked for.
TOLD = ("Building DAG", "Nothing to be done", "Terminating", "Shutting down", "Will exit", "Trying to restart")
AS_TEXT = {"context": "ctx{}", "ar_len": "AR {}", "shard": "shard {}", "shards": "of {}"}  # of wildcards


class ViewHandler(logging.Handler):
    """A view handler tells the view of jobs. Snakemake's own handler gets warnings, errors, commands, and TOLD."""

    def __init__(self, plain):
        super().__init__()
        self.plain = plain
        self.executes = False  # whether jobs run: Snakemake may just unlock a folder, for one
        self.view = None

    def emit(self, record):
        try:
            self.tell(getattr(record, "event", None), record)
        except Exception:  # which would end the build
            self.handleError(record)

    def tell(self, event, record):
        if event is LogEvent.WORKFLOW_STARTED:
            self.executes = True
        elif event is LogEvent.RUN_INFO and self.view is None:
            self.open_view(record.stats["total"])
        elif self.view:
            self.tell_view(event, record)
        told = event is None and (not self.executes or record.getMessage().startswith(TOLD))
        if told or event is LogEvent.SHELLCMD or record.levelno >= logging.WARNING:
            self.plain.handle(record)

    def tell_view(self, event, record):
        if event is LogEvent.JOB_INFO and record.output:
            log = next(map(Path, record.log), None)
            self.view.begin(record.jobid, record.rule_name, in_words(record), log)
        elif event is LogEvent.JOB_ERROR:
            self.view.end(record.jobid)
        elif event is LogEvent.PROGRESS:
            self.view.done, self.view.total = record.done, record.total

    def open_view(self, jobs):
        from hexport.build.live_view import LiveView  # rich takes a while

        self.view = LiveView(jobs)
        shell.prefix(f"{JOB_PREFIX}export {IN_VIEW}=1; ")  # of jobs that run here

    def end(self, job):
        """End a job in the view; return the line that it leaves behind, if there is a view."""
        ended = self.view and self.view.end(workflow.dag.jobid(job))
        return f"{ended.rule} {ended.of}: {ended.elapsed}" if ended else None

    def close(self):
        if self.view:
            self.view.close()
        super().close()


def in_words(record):
    """Return which model, recipe and so on a job is for, or where it has none, its output."""
    words = [AS_TEXT.get(name, "{}").format(value) for name, value in record.wildcards.items()]
    return " ".join(words) or record.output[0]


def has_room_for_a_view(settings):
    dumb = os.environ.get("TERM", "dumb") in ("dumb", "unknown")
    quiet = {Quietness.ALL, Quietness.PROGRESS} & set(settings.quiet or ())
    return sys.stderr.isatty() and not (dumb or quiet or settings.dryrun or settings.verbose or settings.debug_dag)


view_handler = None
if workflow.is_main_process and workflow.modifier.is_main_snakefile() and has_room_for_a_view(workflow.output_settings):
    for plain in [handler for handler in logger.handlers if handler.name == "DefaultStreamHandler"]:
        view_handler = ViewHandler(plain)
        logger.removeHandler(plain)
        logger.addHandler(view_handler)
