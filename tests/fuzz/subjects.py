"""All subjects by name."""

import cases_binary
import cases_checkpoint
import cases_config
import cases_fetch
import cases_pickled
import cases_program
import cases_results
import cases_text
import cases_tokenizer

MODULES = (
    cases_config, cases_checkpoint, cases_binary, cases_tokenizer, cases_text, cases_fetch, cases_results,
    cases_pickled, cases_program,
)  # fmt: skip
SUBJECTS = {name: subject for module in MODULES for name, subject in module.SUBJECTS.items()}
