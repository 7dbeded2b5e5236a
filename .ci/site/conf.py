"""
How Sphinx builds the site out of `docs/`.

Sphinx and not MkDocs: the docstrings are reStructuredText, and their roles are references that the build checks.
"""

from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.ext import napoleon
from sphinx.util.nodes import make_refnode

from tornado_celery_bridge import __version__

HERE = Path(__file__).parent

project = "tornado-celery-bridge"
author = "the tornado-celery-bridge developers"
release = version = __version__
exclude_patterns = ["images"]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinxcontrib.mermaid",
    "sphinx_copybutton",
]

html_theme = "furo"
html_title = project
html_static_path = [str(HERE / "static"), str(HERE.parents[1] / ".test/mermaid/mermaid.min.js")]
mermaid_use_local = "mermaid.mjs"
mermaid_fullscreen = False
copybutton_prompt_text = "$ "  # and not what a command writes

myst_enable_extensions = ["colon_fence"]
myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 4
myst_number_code_blocks: list[str] = []

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_inherit_docstrings = False  # Celery's speak of Celery's pages
napoleon_use_rtype = False

nitpicky = True
#: What other projects document: their inventories would have to be fetched, and the site is built offline.
nitpick_ignore_regex = [
    (r"py:.*", r"(asyncio|_asyncio|celery|collections|datetime|kombu|pathlib|redis|tornado|types|typing|zoneinfo)\..*"),
    (r"py:.*", r"(.*\.)?[PRT]"),  # type variables
    (r"py:exc", r"(ImproperlyConfigured|QueueNotFound)"),  # Celery's
    (r"py:class", r"tornado_celery_bridge\..*|dict\[str"),  # what an annotation names and users need not
]
suppress_warnings = ["misc.highlighting_failure"]  # … stands for what an example leaves out


def sections(app: Sphinx, what: Any, *rest: Any) -> None:
    """Read the sections of a docstring: Args, Raises. An attribute's has none, and may well have a colon."""
    if what not in ("attribute", "data", "property"):
        napoleon._process_docstring(app, what, *rest)


def named_shortly(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element
) -> nodes.reference | None:
    """Return the reference to the one object of ours that has this name, whatever its module."""
    if node.get("refdomain") != "py":
        return None
    found = env.domains.python_domain.find_obj(env, "", "", node["reftarget"], None, 1)
    places = {(entry.docname, entry.node_id) for _, entry in found}
    if len(places) != 1:
        return None
    [(page, anchor)] = places
    return make_refnode(app.builder, node["refdoc"], page, anchor, content)


def setup(app: Sphinx) -> None:
    for listener in list(app.events.listeners["autodoc-process-docstring"]):
        if listener.handler is napoleon._process_docstring:
            app.disconnect(listener.id)
    app.connect("autodoc-process-docstring", sections)
    app.connect("missing-reference", named_shortly)
