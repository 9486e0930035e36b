//! The prompt of a conversation, by the package's own chat template.
//!
//! Templates are Jinja, as published with models. One is somebody else's program: its steps are counted and its output is
//! bounded, and it reaches nothing but the conversation.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{Environment, ErrorKind, UndefinedBehavior, context};
use serde::{Deserialize, Serialize};

/// Most bytes of a template.
const MAX_TEMPLATE: usize = 256 << 10;
/// Most bytes of a prompt.
const MAX_PROMPT: usize = 4 << 20;
/// Steps that a template may take.
const FUEL: u64 = 5_000_000;

/// What somebody said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What.
    pub content: String,
}

/// A template cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// It does not parse.
    #[error("it is no template: {0}")]
    Parse(String),
    /// It refuses the conversation, or makes too much of it.
    #[error("the model's chat template refuses the messages: {0}")]
    Refused(String),
    /// It is too long.
    #[error("it has {0} bytes, at most {MAX_TEMPLATE}")]
    TooLarge(usize),
}

/// A chat template.
#[derive(Debug)]
pub struct Template(Environment<'static>);

const NAME: &str = "chat";

impl Template {
    /// # Errors
    /// It does not parse.
    pub(super) fn new(text: &str) -> Result<Self, TemplateError> {
        if text.len() > MAX_TEMPLATE {
            return Err(TemplateError::TooLarge(text.len()));
        }
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(64);
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| TemplateError::Parse(error.to_string()))?);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |text: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, text))
        });
        environment
            .add_template_owned(NAME, text.to_owned())
            .map_err(|error| TemplateError::Parse(error.to_string()))?;
        Ok(Self(environment))
    }

    /// The prompt, up to where the assistant speaks.
    ///
    /// # Errors
    /// The template refuses, or takes too many steps.
    pub fn render(&self, messages: &[Message]) -> Result<String, TemplateError> {
        let refused = |error: minijinja::Error| {
            let detail = error.detail().map_or_else(|| error.kind().to_string(), ToOwned::to_owned);
            TemplateError::Refused(detail.chars().filter(|c| !c.is_control()).take(300).collect())
        };
        let template = self.0.get_template(NAME).map_err(refused)?;
        let mut prompt = Bounded(Vec::new());
        let messages: Vec<Value> =
            messages.iter().map(|m| context! { role => m.role.as_str(), content => m.content.as_str() }).collect();
        let values = context! { messages, add_generation_prompt => true, bos_token => "", eos_token => "" };
        template.render_captured_to(values, &mut prompt).map_err(refused)?;
        String::from_utf8(prompt.0).map_err(|error| TemplateError::Refused(error.to_string()))
    }
}

/// A buffer that takes no more than a prompt may have.
struct Bounded(Vec<u8>);

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len().saturating_add(bytes.len()) > MAX_PROMPT {
            return Err(std::io::Error::other(format!("the prompt has more than {MAX_PROMPT} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHATML: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
        {{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}\
        {% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}\
        {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

    fn user(content: &str) -> Message {
        Message { role: "user".into(), content: content.into() }
    }

    #[test]
    fn chatml_is_rendered() {
        let prompt = Template::new(CHATML).unwrap().render(&[user("Hello {{ 1 }}")]).unwrap();
        assert_eq!(
            prompt,
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n\
             <|im_start|>user\nHello {{ 1 }}<|im_end|>\n<|im_start|>assistant\n"
        );
    }

    #[test]
    fn hostile_templates_are_stopped() {
        for (template, why) in [
            ("{% for i in range(10000) %}{% for j in range(10000) %}{{ i }}{% endfor %}{% endfor %}", "fuel"),
            ("{% for i in range(10000) %}{{ 'x' * 100000 }}{% endfor %}", ""),
            ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
            ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ] {
            let error = Template::new(template).unwrap().render(&[user("a")]).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        assert!(matches!(Template::new("{% for %}"), Err(TemplateError::Parse(_))));
        assert!(matches!(Template::new(&" ".repeat(MAX_TEMPLATE + 1)), Err(TemplateError::TooLarge(_))));
    }
}
