"""All subjects by name."""

import cases_checkpoint
import cases_config
import cases_fetch
import cases_program
import cases_results
import cases_text
import cases_tokenizer

SUBJECTS = {
    name: subject
    for module in (
        cases_config,
        cases_checkpoint,
        cases_tokenizer,
        cases_text,
        cases_fetch,
        cases_results,
        cases_program,
    )
    for name, subject in module.SUBJECTS.items()
}
