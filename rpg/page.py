"""The look of the report's HTML page: a template without script or request, for light and dark, wide and narrow."""

from string import Template

HEAD = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$recipe: generated networks</title>
<style>
:root { --paper: #fdfdfb; --ink: #1d2125; --soft: #5d666e; --line: #dcdfe0; --tint: #fbeee6; color-scheme: light dark }
@media (prefers-color-scheme: dark) {
  :root { --paper: #15181b; --ink: #e4e6e7; --soft: #9aa3aa; --line: #343a3f; --tint: #33241b }
}
* { box-sizing: border-box }
body { margin: 0 auto; padding: 3rem 1.25rem 4rem; max-width: 47rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.6 system-ui, sans-serif; overflow-wrap: anywhere }
h1 { margin: 0 0 1.25rem; font-size: clamp(1.6rem, 5vw, 2.2rem); line-height: 1.15; letter-spacing: -.015em }
h2 { margin: 3rem 0 .75rem; font-size: 1.2rem; letter-spacing: -.005em }
.eyebrow { margin: 0 0 .35rem; color: var(--soft); font-size: .85rem }
.headline { margin: 0; padding-left: 1rem; border-left: 3px solid #d55e00; font-size: 1.13rem; line-height: 1.55 }
.wide { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums;
  overflow-wrap: normal }
th, td { padding: .38rem 0 .38rem 1rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line) }
thead th { color: var(--soft); font-weight: 500; vertical-align: bottom; white-space: normal; line-height: 1.3 }
th:first-child { position: sticky; left: 0; padding: .38rem .5rem .38rem .35rem; text-align: left; font-weight: 500;
  background: var(--paper); white-space: nowrap }
tr.generated > * { background: var(--tint); font-weight: 650 }
i { display: inline-block; width: .65em; height: .65em; margin-right: .55em; border-radius: 50% }
figure { margin: 1.5rem 0 0 }
figcaption { color: var(--soft); font-size: .9rem; line-height: 1.5; margin-top: .5rem }
svg { display: block; width: 100%; max-width: 35rem; height: auto; margin: 0 auto }
dl { margin: 0 }
dt { font-weight: 650; margin-top: .9rem }
dd { margin: 0 }
.pairs { display: grid; grid-template-columns: minmax(6.5rem, max-content) 1fr; gap: .3rem 1.25rem; font-size: .92rem }
.pairs dt { margin: 0; font-weight: 500; color: var(--soft) }
@media (max-width: 34rem) { table { font-size: .84rem } th, td { padding-left: .6rem } }
.pairs + p { margin-top: 1.5rem }
</style>
</head>
"""

PAGE = Template(
    HEAD
    + """\
<body>
<header>
<p class="eyebrow">originals, generated networks and baselines</p>
<h1>$recipe</h1>
<p class="headline">$headline</p>
</header>

<h2>Scores</h2>
$scores

<h2>Similarity to the training checkpoints</h2>
$similarity
<figure>
$similarity_plot
<figcaption>A point per network; up and left is better. A generator that only copies sits among the originals, one that
adds noise among the noised copies. Hollow marks lie below the axis.</figcaption>
</figure>
<figure>
$distance_plot
<figcaption>Shares of each group by distance to the nearest training checkpoint. Clearly left of the dashed line: closer
than training checkpoints are to one another. The bars of each row have their own height.</figcaption>
</figure>

<h2>Verdict</h2>
<dl>
$findings</dl>

<h2>Training</h2>
$training

<h2>How to read this</h2>
<dl class="pairs">
$groups</dl>
$reading

<h2>Provenance</h2>
<dl class="pairs">
$provenance</dl>
</body>
</html>
"""
)

TASKS_PAGE = Template(
    HEAD
    + """\
<body>
<header>
<p class="eyebrow">networks for binary tasks: trained, generated, predicted</p>
<h1>$recipe</h1>
<p class="headline">$headline</p>
</header>

<h2>Points below the originals</h2>
$gaps

<h2>Tasks</h2>
$tasks

<h2>Class by class</h2>
$classes

<h2>Weights of the classification head</h2>
<figure>
$head_plot
<figcaption>A point per network, along the two directions in which the networks of seen tasks vary most (paper, figure
10).</figcaption>
</figure>
<figure>
$picture_plot
<figcaption>A row per network, a column per weight, in units of its spread over the seen tasks (paper, figure 6).
</figcaption>
</figure>

<h2>Training</h2>
$training

<h2>How to read this</h2>
$reading

<h2>Provenance</h2>
<dl class="pairs">
$provenance</dl>
</body>
</html>
"""
)
