"""What every package uses: errors, configuration, files that appear whole, progress, processes.

May import none of the others.
"""
