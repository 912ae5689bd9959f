"""Tables of the paper and of the runs, in Markdown, LaTeX and CSV."""
