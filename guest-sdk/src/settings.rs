//! The settings of a block: what its manifest entry says besides its layers.

use crate::Failure;

/// Names and values from the package's manifest.
pub struct Settings(Vec<(String, String)>);

impl Settings {
    pub(crate) fn new(pairs: Vec<(String, String)>) -> Self {
        Self(pairs)
    }

    /// The value of a setting that must be there.
    ///
    /// # Errors
    /// It is missing.
    pub fn text(&self, name: &str) -> Result<&str, Failure> {
        match self.0.iter().find(|(n, _)| n == name) {
            Some((_, value)) => Ok(value),
            None => bad(&["setting `", name, "` is missing"]),
        }
    }

    /// A number of things: at least 1.
    ///
    /// # Errors
    /// It is missing or no such number.
    pub fn count(&self, name: &str) -> Result<u32, Failure> {
        let text = self.text(name)?;
        match text.parse() {
            Ok(count) if count > 0 => Ok(count),
            _ => bad(&["setting `", name, "` is `", text, "`: needs a whole number from 1"]),
        }
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// It is missing or neither.
    pub fn flag(&self, name: &str) -> Result<bool, Failure> {
        match self.text(name)? {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(self.not_one_of(name, &["true", "false"])),
        }
    }

    /// The failure of a setting that is none of these.
    pub fn not_one_of(&self, name: &str, known: &[&str]) -> Failure {
        let text = self.text(name).unwrap_or_default();
        Failure::BadSettings(["setting `", name, "` is `", text, "`: needs one of ", &known.join(", ")].concat())
    }

    /// Refuse what the block does not know: a setting that is ignored is a setting that is wrong.
    ///
    /// # Errors
    /// A setting that is not in `known`, or is there twice.
    pub fn only(&self, known: &[&str]) -> Result<(), Failure> {
        for (i, (name, _)) in self.0.iter().enumerate() {
            if !known.contains(&name.as_str()) {
                return bad(&["unknown setting `", name, "`: this block has ", &known.join(", ")]);
            }
            if self.0.iter().take(i).any(|(n, _)| n == name) {
                return bad(&["setting `", name, "` is there twice"]);
            }
        }
        Ok(())
    }
}

fn bad<T>(text: &[&str]) -> Result<T, Failure> {
    Err(Failure::BadSettings(text.concat()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        Settings::new(pairs.iter().map(|&(n, v)| (n.to_owned(), v.to_owned())).collect())
    }

    #[test]
    fn values_parse_or_say_what_they_need() {
        let s = settings(&[("heads", "12"), ("normalise", "yes")]);
        assert_eq!(s.count("heads"), Ok(12));
        assert_eq!(
            s.flag("normalise"),
            Err(Failure::BadSettings("setting `normalise` is `yes`: needs one of true, false".to_owned()))
        );
        assert!(settings(&[("heads", "0")]).count("heads").is_err());
        assert_eq!(s.text("pool"), Err(Failure::BadSettings("setting `pool` is missing".to_owned())));
    }

    #[test]
    fn unknown_and_repeated_settings_are_refused() {
        assert_eq!(settings(&[("a", "1")]).only(&["a", "b"]), Ok(()));
        assert!(settings(&[("c", "1")]).only(&["a", "b"]).is_err());
        assert!(settings(&[("a", "1"), ("a", "1")]).only(&["a"]).is_err());
    }
}
