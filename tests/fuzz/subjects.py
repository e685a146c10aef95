"""All subjects by name."""

import cases_checkpoint
import cases_config
import cases_text
import cases_tokenizer

SUBJECTS = {
    name: subject
    for module in (cases_config, cases_checkpoint, cases_tokenizer, cases_text)
    for name, subject in module.SUBJECTS.items()
}
