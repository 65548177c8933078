"""HTML pages of reports, with a list of contents and tables that are sorted by a click."""

from __future__ import annotations

import base64
import re
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from lecun_ablate.evidence.sentences import answer
from lecun_ablate.evidence.weighing import Evidence
from lecun_ablate.reporting import evidence_tables

TEMPLATES = Path(__file__).parent / "templates"
# for an experiment in a notebook
SHOWN = ("arm", "runs", "test error", "train error")
COMPARED = ("arm", "against", "difference", "over seeds", "p", "verdict")
SCRIPT = (TEMPLATES / "tables.js").read_text(encoding="utf-8")


@cache
def templates() -> jinja2.Environment:
    """Return the templates, with autoescaping for HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES, encoding="utf-8"),
        autoescape=lambda name: name is not None and ".html" in name,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["minus"] = minus
    return environment


def minus(text: str) -> str:
    """Write hyphens before numbers as minus signs."""
    return re.sub(r"(?<![\w.])-(?=\d)", "\N{MINUS SIGN}", text)


def summary(evidence: Evidence, link: str) -> str:
    """Return what a notebook shows of an experiment: answer, arms and comparisons."""
    arms = evidence_tables.arms(evidence).only(SHOWN)
    compared = evidence_tables.comparisons(evidence)
    tables = [arms, compared.only(COMPARED)] if compared.rows else [arms]
    return (
        templates()
        .get_template("summary.html.j2")
        .render(
            title=f"{evidence.plan.experiment.name} on {evidence.plan.data}",
            answer=answer(evidence),
            tables=tables,
            link=link,
        )
    )


def study_page(report: Any, picture: bytes) -> str:
    """Return the page of a study; `report` is its StudyReport, `picture` its figure (PNG)."""
    source = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    page = templates().get_template("study.html.j2").render(report=report, picture=source)
    return finished(page)


def finished(page: str) -> str:
    """Return a page with a list of contents from its h2 headings, and the script for its tables."""
    headings: list[tuple[str, str]] = []

    def named(match: re.Match[str]) -> str:
        words = re.sub(r"<[^>]+>", "", match[1]).strip()
        key = re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")
        headings.append((key, words))
        return f'<h2 id="{key}">{match[1]}</h2>'

    page = re.sub(r"<h2>(.*?)</h2>", named, page, flags=re.S)
    links = "".join(f'<li><a href="#{key}">{words}</a></li>' for key, words in headings)
    contents = f'<nav class="contents" aria-label="Contents"><ol>{links}</ol></nav>\n'
    page = page.replace("<main>", f"{contents}<main>", 1)
    return page.replace("</body>", f"<script>\n{SCRIPT}</script>\n</body>", 1)
