//! `config schema`: the JSON Schema of the file, from the same declarations that read it.

use super::file::File;
use super::read::Value;

/// Pretty JSON with a final newline; committed as `config/doorward.schema.json`.
pub fn json() -> String {
    let mut schema = File::schema();
    schema.insert("$schema".to_owned(), "https://json-schema.org/draft/2020-12/schema".into());
    schema.insert("title".to_owned(), "doorward.toml".into());
    // What the file must hold though each of the tables may be empty by its own schema.
    schema.insert("required".to_owned(), ["tls", "upstream", "site"].into_iter().collect());
    format!("{:#}\n", schema.to_value())
}
