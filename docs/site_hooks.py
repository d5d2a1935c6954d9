"""What the site has beside docs/: the notebooks as pages, and what pages link to outside of docs/."""

import json
import pathlib
import re

from mkdocs.structure.files import File


def on_files(files, config):
    """Add the notebooks, each as a page and as a file to download, and the examples."""
    root = pathlib.Path(config.docs_dir).parent
    for path in [*root.glob("notebooks/*.ipynb"), *root.glob("examples/*.py")]:
        files.append(File.generated(config, f"{path.parent.name}/{path.name}", abs_src_path=str(path)))
        if path.suffix == ".ipynb":
            files.append(File.generated(config, f"notebooks/{path.stem}.md", content=_page(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Point links at the site's places: it has docs/ at its root, and notebooks/ and examples/ in it."""
    if page.file.src_uri.startswith("notebooks/"):
        return markdown.replace("](../docs/", "](../")
    return re.sub(r"\]\(\.\./(notebooks/\w+\.)ipynb\)", r"](\1md)", markdown).replace("](../", "](")


def _page(path):
    """A notebook as Markdown: its text, and its code in fences."""
    parts = [
        "".join(cell["source"]) if cell["cell_type"] == "markdown" else f"```python\n{''.join(cell['source'])}\n```"
        for cell in json.loads(path.read_text())["cells"]
    ]
    return "\n\n".join([*parts, f"[This page as a notebook]({path.name})", ""])
