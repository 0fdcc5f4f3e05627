"""The pages beside the heatmap: plain documents, each with a small script where it moves."""
