"""What a run over a file of questions costs beside its model: journal, results, memory, going on."""
