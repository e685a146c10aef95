"""This module holds the page's own text, a Jinja template."""

PAGE = """\
<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>hexport report</title>
<style>
:root { --ink: #1d2329; --paper: #fff; --line: #d5dae0; --faint: #5c6670; --good: #1d7a4d; --bad: #b3362c }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ec; --paper: #14181c; --line: #343b43; --faint: #9aa4ae; --good: #5cc592; --bad: #f08a7e }
}
* { box-sizing: border-box }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 1.5em auto;
  max-width: 78em; padding: 0 1em }
h1 { font-size: 1.5em } h2 { font-size: 1.2em; margin-top: 2em } h3 { font-size: 1em; margin-bottom: .3em }
a { color: inherit } p, summary { color: var(--faint) }
nav a { margin-right: 1em; white-space: nowrap }
.wide { overflow-x: auto }
table { border-collapse: collapse; margin: .6em 0 1em; min-width: 30em }
th, td { border-bottom: 1px solid var(--line); padding: .25em .8em .25em 0; text-align: left; vertical-align: top }
th { color: var(--faint); font-weight: 600 }
td.figure, th.figure { font-variant-numeric: tabular-nums; text-align: right; white-space: nowrap }
td.text { white-space: pre-wrap; min-width: 14em }
table.plain td { white-space: nowrap }
.good { color: var(--good) } .bad { color: var(--bad) }
.chart { max-width: 760px } .chart svg { width: 100%; height: auto }
caption { font-weight: 600; text-align: left }
</style>
<h1>hexport report</h1>
<nav><a href="#programs">programs</a>
{% for chart in charts %} <a href="#{{ chart.id }}">{{ chart.short }}</a>{% endfor %}
{% if results %}<a href="#speed">speed</a> <a href="#answers">answers</a>{% endif %}
{% if evaluations %}<a href="#evaluations">evaluations</a>{% endif %}</nav>

{% if changes %}
<h2>What changed since the report before</h2>
<div class="wide"><table>
<tr><th>what</th><th class="figure">before</th><th class="figure">now</th></tr>
{% for change in changes %}
<tr><td>{{ change.what }}</td><td class="figure">{{ shown(change.before) }}</td>
<td class="figure">{{ shown(change.now) }}</td></tr>
{% endfor %}
</table></div>
{% endif %}

{% if programs %}
<h2 id="programs">Programs</h2>
<div class="wide"><table class="plain">
<tr><th>model</th><th>recipe</th><th class="figure">context</th><th>for</th><th>mode</th><th>state</th>
<th class="figure">MB</th><th>built, UTC</th><th class="figure">qdq / fp</th><th class="figure">device / fp</th></tr>
{% for each in programs %}
<tr><td>{{ each.program.model }}</td><td>{{ each.program.recipe }}</td>
<td class="figure">{{ each.program.context_length }}</td><td>{{ each.program.target }}</td>
<td>{{ each.program.mode }}</td>
{% if each.built %}
<td><a href="{{ link(each.file) }}">built</a> <a href="{{ link(each.file) }}.manifest.json">manifest</a>
{% if each.passed %}<span class="good">gates passed</span>{% endif %}</td>
<td class="figure">{{ "%.1f" | format(each.n_bytes / 1e6) }}</td><td>{{ each.built }}</td>
{% else %}<td class="bad">not built</td><td></td><td></td>{% endif %}
{% for ratio in ratios_of(each.program) %}<td class="figure">{{ shown(ratio) }}</td>{% endfor %}</tr>
{% endfor %}
</table></div>
{% endif %}

{% for chart in charts %}
<h2 id="{{ chart.id }}">{{ chart.title }}</h2>
<p>{{ chart.text }}</p>
<div class="chart">{{ chart.svg | safe }}</div>
{% endfor %}

{% if results %}
<h2 id="speed">Speed</h2>
<p>Medians, and ± half of what lies between the slowest and the fastest repeat. The emulator's are no phone's.</p>
<div class="wide"><table>
<tr><th>program</th><th>device</th><th class="figure">load, ms</th><th class="figure">first token, ms</th>
<th class="figure">prefill, tokens/s</th><th class="figure">decode, tokens/s</th></tr>
{% for place, result in results %}
<tr><td><a href="{{ link(result_file(place)) }}">{{ place.model }} / {{ place.recipe }} / {{ place.context_length }} /
{{ place.mode }}</a></td><td>{{ place.target }} / {{ result.device }}</td>
{% for figure in speeds %}<td class="figure">{{ speed(result, figure) }}</td>{% endfor %}</tr>
{% endfor %}
</table></div>
<h2 id="answers">Answers</h2>
<div class="wide"><table>
<tr><th>program</th><th>prompt</th><th>answer</th><th class="figure">first token, ms</th>
<th class="figure">tokens/s</th></tr>
{% for place, result in results %}
{% set count = conversations(result) %}
{% for prompt in result.prompts %}
<tr><td>{{ place.folders | join(" / ") }}
{%- if count > 1 %}, conversation {{ prompt.conversation | default(0) + 1 }} of {{ count }}{% endif %}</td>
<td class="text">{{ prompt.prompt }}</td><td class="text">{{ prompt.text }}</td>
<td class="figure">{{ shown(prompt.ttft_ms) }}</td><td class="figure">{{ shown(prompt.decode_tokens_per_s) }}</td></tr>
{% endfor %}
{% endfor %}
</table></div>
{% endif %}

{% if evaluations %}
<h2 id="evaluations">Evaluations</h2>
{% for evaluation in evaluations %}
<h3>{{ evaluation.place.folders | select | join(" / ") }}</h3>
<p>{% for phase, file in files_of(evaluation).items() %}<a href="{{ link(file) }}">{{ phase }}</a> {% endfor %}</p>
<div class="wide"><table>
<caption>Tasks</caption>
<tr><th>task</th><th>metric</th>{% for phase in phases %}<th class="figure">{{ phase }}</th>{% endfor %}
<th class="figure">qdq / fp</th><th class="figure">device / fp</th></tr>
{% for task in evaluation.tasks %}
{% for metric in metrics(evaluation, task) %}
<tr><td>{{ task }}</td><td>{{ metric }}</td>
{% for content in evaluation.phases.values() %}
<td class="figure">{{ shown(content.get("tasks", {}).get(task, {}).get(metric)) }}</td>
{% endfor %}
{% for content in (evaluation.phases.qdq, evaluation.phases.device) %}
<td class="figure">
{% if metric == "word_perplexity" %}{{ shown(content.get("perplexity_ratio", {}).get(task)) }}{% endif %}
</td>
{% endfor %}
</tr>
{% endfor %}
{% endfor %}
</table></div>
<div class="wide"><table>
<caption>Logits against those of fp</caption>
<tr><th></th>{% for phase in phases %}<th class="figure">{{ phase }}</th>{% endfor %}</tr>
{% for key, name in compared.items() %}
<tr><td>{{ name }}</td>
{% for content in evaluation.phases.values() %}<td class="figure">{{ shown(content.get(key)) }}</td>{% endfor %}</tr>
{% endfor %}
</table></div>
{% if evaluation.phases.qdq %}
<div class="wide"><table>
<caption>Worst layers of qdq</caption>
<tr><th>layer</th><th class="figure">SQNR behind it, dB</th></tr>
{% for i in evaluation.phases.qdq.worst_layers %}
<tr><td>{{ i }}</td><td class="figure">{{ shown(evaluation.phases.qdq.layers[i].sqnr_db) }}</td></tr>
{% endfor %}
</table></div>
{% endif %}
{% endfor %}
{% endif %}
</html>
"""
