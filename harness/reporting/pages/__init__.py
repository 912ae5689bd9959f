"""The report as data, and the two forms it is written in: Markdown and one page."""
