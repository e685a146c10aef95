"""One page of everything measured: figures of the three phases, worst layers, answers. It needs no other file."""

import jinja2

from hexport.build.artifacts import Place
from hexport.report.summary import PHASES, Evaluation

COMPARED = {
    "sqnr_db": "SQNR, dB",
    "kl_divergence": "KL divergence, nats",
    "top1_agreement": "top-1 agreement with fp",
    "top1_agreement_qdq": "top-1 agreement with qdq",
    "tokens": "tokens scored",
}
PAGE = """\
<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>hexport report</title>
<style>
body { font: 15px/1.4 sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em }
table { border-collapse: collapse; margin: 1em 0 }
th, td { border-bottom: 1px solid #ccc; padding: .2em .8em; text-align: left; vertical-align: top }
td.figure, th.figure { font-variant-numeric: tabular-nums; text-align: right }
td.text { white-space: pre-wrap }
caption { font-weight: bold; text-align: left }
</style>
<h1>hexport report</h1>
{% for evaluation in evaluations %}
<h2>{{ evaluation.place.folders | select | join(" / ") }}</h2>
<table>
<caption>Tasks</caption>
<tr><th>task</th><th>metric</th>{% for phase in phases %}<th class="figure">{{ phase }}</th>{% endfor %}
<th class="figure">qdq / fp</th><th class="figure">device / fp</th></tr>
{% for task in evaluation.tasks %}
{% for metric in metrics(evaluation, task) %}
<tr><td>{{ task }}</td><td>{{ metric }}</td>
{% for content in evaluation.phases.values() %}
<td class="figure">{{ shown(content.get("tasks", {}).get(task, {}).get(metric)) }}</td>
{% endfor %}
{% for content in (evaluation.qdq, evaluation.device) %}
<td class="figure">
{% if metric == "word_perplexity" %}{{ shown(content.get("perplexity_ratio", {}).get(task)) }}{% endif %}
</td>
{% endfor %}
</tr>
{% endfor %}
{% endfor %}
</table>
<table>
<caption>Logits against those of fp</caption>
<tr><th></th>{% for phase in phases %}<th class="figure">{{ phase }}</th>{% endfor %}</tr>
{% for key, name in compared.items() %}
<tr><td>{{ name }}</td>
{% for content in evaluation.phases.values() %}<td class="figure">{{ shown(content.get(key)) }}</td>{% endfor %}</tr>
{% endfor %}
</table>
{% if evaluation.qdq %}
<table>
<caption>Worst layers of qdq</caption>
<tr><th>layer</th><th class="figure">SQNR behind it, dB</th></tr>
{% for i in evaluation.qdq.worst_layers %}
<tr><td>{{ i }}</td><td class="figure">{{ shown(evaluation.qdq.layers[i].sqnr_db) }}</td></tr>
{% endfor %}
</table>
{% endif %}
{% endfor %}
{% if results %}
<h2>Answers</h2>
<table>
<tr><th>program</th><th>prompt</th><th>answer</th><th class="figure">first token, ms</th>
<th class="figure">tokens/s</th></tr>
{% for place, result in results %}
{% for prompt in result.prompts %}
<tr><td>{{ place.folders | join(" / ") }}</td>
<td class="text">{{ prompt.prompt }}</td><td class="text">{{ prompt.text }}</td>
<td class="figure">{{ shown(prompt.ttft_ms) }}</td><td class="figure">{{ shown(prompt.decode_tokens_per_s) }}</td></tr>
{% endfor %}
{% endfor %}
</table>
{% endif %}
</html>
"""


def report_page(evaluations: list[Evaluation], results: list[tuple[Place, dict]]) -> str:
    """HTML. `results` are contents of result.json, with their places."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(PAGE).render(
        evaluations=evaluations,
        results=results,
        phases=PHASES,
        compared=COMPARED,
        metrics=_metrics,
        shown=_shown,
    )


def _metrics(evaluation: Evaluation, task: str) -> list[str]:
    contents = evaluation.phases.values()
    return list(dict.fromkeys(metric for content in contents for metric in content.get("tasks", {}).get(task, {})))


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)
