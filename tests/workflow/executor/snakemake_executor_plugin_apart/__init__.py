"""An executor for tests: each job gets a folder of its own, with what it needs from a storage, as on another machine.

JOB_FOLDERS names the folder in which these folders are made.
"""

import os
import subprocess
import tempfile

from snakemake_executor_plugin_here import Executor as Here
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.jobs import JobExecutorInterface
from snakemake_interface_executor_plugins.settings import CommonSettings

common_settings = CommonSettings(
    non_local_exec=True,
    implies_no_shared_fs=True,
    job_deploy_sources=True,
    pass_default_storage_provider_args=True,
    pass_default_resources_args=True,
    auto_deploy_default_storage_provider=False,
    init_seconds_before_status_checks=0,
)


class Executor(Here):
    def run_job(self, job: JobExecutorInterface) -> None:
        folder = tempfile.mkdtemp(dir=os.environ["JOB_FOLDERS"])
        process = subprocess.Popen(self.format_job_exec(job), shell=True, cwd=folder)
        self.report_job_submission(SubmittedJobInfo(job, aux={"process": process}))
