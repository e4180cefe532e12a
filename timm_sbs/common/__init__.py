"""What every room uses: errors, configuration, files that appear whole, progress, processes.

May import nothing of this package.
"""
