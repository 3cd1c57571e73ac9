"""The differences between operating systems behind one interface; the implementation is chosen here, once.

No other module asks which system it runs on. A feature that a system lacks is named in ``system.lacks``.
"""

import sys

if sys.platform == "win32":
    from rapsqlite._platform.windows import Windows as _System
elif sys.platform == "darwin":
    from rapsqlite._platform.darwin import Darwin as _System
else:
    from rapsqlite._platform.linux import Linux as _System

system = _System()

__all__ = ["system"]
