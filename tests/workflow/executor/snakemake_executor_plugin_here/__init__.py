"""An executor for tests: a job, or a group of them, runs in a Snakemake of its own on this machine, as on a cluster."""

import subprocess
from collections.abc import AsyncGenerator

from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
from snakemake_interface_executor_plugins.jobs import JobExecutorInterface
from snakemake_interface_executor_plugins.settings import CommonSettings

common_settings = CommonSettings(
    non_local_exec=True, implies_no_shared_fs=False, job_deploy_sources=False, init_seconds_before_status_checks=0
)


class Executor(RemoteExecutor):
    def run_job(self, job: JobExecutorInterface) -> None:
        process = subprocess.Popen(self.format_job_exec(job), shell=True)
        self.report_job_submission(SubmittedJobInfo(job, aux={"process": process}))

    async def check_active_jobs(self, active_jobs: list[SubmittedJobInfo]) -> AsyncGenerator[SubmittedJobInfo, None]:
        for job in active_jobs:
            match job.aux["process"].poll():
                case None:
                    yield job
                case 0:
                    self.report_job_success(job)
                case _:
                    self.report_job_error(job)

    def cancel_jobs(self, active_jobs: list[SubmittedJobInfo]) -> None:
        for job in active_jobs:
            job.aux["process"].kill()
