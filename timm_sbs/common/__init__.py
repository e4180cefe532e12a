"""What every room uses: errors, configuration, files that appear whole, the cache, progress, processes.

May import nothing of this package.
"""
