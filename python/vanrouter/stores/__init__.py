"""
What a site keeps on one machine: a directory of resources, which is the user's, and state, which is the site's.

Drives the file system and decides nothing. Every write is atomic: a reader, and the next start after ``kill -9`` or a full disk, sees
the old content or the new, never neither and never a part. Secrets are 0600 in directories of 0700; looser ones are refused, not repaired,
because somebody may have read them. Errors name the file and what to do (``StoreError``, ``ConfigError``).

    home        the directory of a site, its lock, its layout
    resources   resources/*.yaml: reading what changed, problems, the last good form of a broken file, writing one resource
    state       state/: keys, the CA, credentials of links, admissions
    files       the primitives below them
"""

from vanrouter.stores.home import SiteHome
from vanrouter.stores.resources import Loaded, Located, Problem, ResourceFiles
from vanrouter.stores.state import StateFiles

__all__ = ["Loaded", "Located", "Problem", "ResourceFiles", "SiteHome", "StateFiles"]
