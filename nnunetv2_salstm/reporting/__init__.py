"""How numbers are shown: one document for terminal, Markdown and browser; tables, figures, overlays."""
