//! A statement's parameters: <https://sqlite.org/lang_expr.html#varparam>.

use core::ffi::c_int;

use libsqlite3_sys as ffi;

use crate::abi;
use crate::error::{Error, Result};
use crate::sqlite::statement::{Statement, bytes_of};
use crate::sqlite::statement_cache::Keyed;
use crate::wire::params::Params;

impl Statement {
    /// Fails if `format` requires named parameters to be bound by name, and `params` are positional.
    pub fn check_positions(&self, format: u16, params: &Params<'_>) -> Result<()> {
        match params {
            Params::ByPosition { count, .. }
                if format & abi::FORMAT_REFUSE_POSITIONS != 0
                    && *count == self.parameter_count
                    && self.has_named_parameters() =>
            {
                Err(Error::positions())
            }
            _ => Ok(()),
        }
    }

    /// Whether any parameter has a name; `?5` is a number.
    pub fn has_named_parameters(&self) -> bool {
        // The text of most statements shows that they have none.
        let may_have = self
            .key()
            .iter()
            .any(|byte| matches!(byte, b':' | b'@' | b'$' | b'#'));
        let mut names = self.parameter_names().flatten();
        self.parameter_count > 0 && may_have && names.any(|name| name[0] != b'?')
    }

    /// The name of parameter `index` without its prefix.
    pub fn parameter_name(&self, index: usize) -> Result<&[u8]> {
        // SAFETY: `stmt` is prepared; the name lives as long as it.
        let name = unsafe { ffi::sqlite3_bind_parameter_name(self.raw(), index as c_int) };
        if name.is_null() {
            return Err(Error::programming(format!(
                "Binding {index} has no name, but you supplied a dictionary (which has only names)."
            )));
        }
        // SAFETY: as above; a name has at least its prefix.
        Ok(&unsafe { bytes_of(name) }[1..])
    }

    /// The names of all parameters with their prefixes, `None` for those without.
    pub fn parameter_names(&self) -> impl ExactSizeIterator<Item = Option<&[u8]>> {
        (0..self.parameter_count).map(|index| {
            // SAFETY: `stmt` is prepared; the name lives as long as it.
            let name = unsafe { ffi::sqlite3_bind_parameter_name(self.raw(), index as c_int + 1) };
            // SAFETY: as above.
            (!name.is_null()).then(|| unsafe { bytes_of(name) })
        })
    }
}
