//! YAML bodies, as `sigs.k8s.io/yaml` reads them: into JSON, one document.

use serde_json::Value;

/// The document of a YAML text; an empty one is `null`.
///
/// # Errors
/// Where it is no YAML, or its keys are no strings; the message has line and column.
pub fn parse(text: &str) -> Result<Value, String> {
    let value: serde_yaml_ng::Value = serde_yaml_ng::from_str(text).map_err(|e| e.to_string())?;
    convert(value)
}

/// A JSON document as YAML.
pub fn write(value: &Value) -> String {
    // Values that come from JSON have no keys that YAML cannot write.
    serde_yaml_ng::to_string(value).unwrap_or_default()
}

/// 3.0 is 3 once Go has written it as JSON.
fn number(n: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    #[allow(clippy::cast_possible_truncation)]
    if n.fract() == 0.0 && n.abs() <= EXACT { Value::from(n as i64) } else { Value::from(n) }
}

fn convert(value: serde_yaml_ng::Value) -> Result<Value, String> {
    use serde_yaml_ng::Value as Yaml;
    Ok(match value {
        Yaml::Null => Value::Null,
        Yaml::Bool(b) => Value::Bool(b),
        Yaml::Number(n) => {
            let whole = n.as_i64().map(Value::from).or_else(|| n.as_u64().map(Value::from));
            whole.or_else(|| n.as_f64().map(number)).unwrap_or(Value::Null)
        }
        Yaml::String(s) => Value::String(s),
        Yaml::Sequence(items) => Value::Array(items.into_iter().map(convert).collect::<Result<_, _>>()?),
        Yaml::Mapping(fields) => {
            let mut out = serde_json::Map::new();
            for (key, value) in fields {
                let key = match key {
                    Yaml::String(s) => s,
                    Yaml::Bool(b) => b.to_string(),
                    Yaml::Number(n) => n.to_string(),
                    other => return Err(format!("a key is not a string: {other:?}")),
                };
                out.insert(key, convert(value)?);
            }
            Value::Object(out)
        }
        Yaml::Tagged(tagged) => convert(tagged.value)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn yaml_is_json_with_other_clothes() {
        let text = "a: 1\nb: [x, 'y', 2.5]\nc: {d: null}\n1: true\n";
        assert_eq!(parse(text).unwrap(), json!({"a": 1, "b": ["x", "y", 2.5], "c": {"d": null}, "1": true}));
        assert!(parse("a: [").is_err());
        assert!(parse("? [a]\n: b\n").is_err());
        assert_eq!(parse(&write(&json!({"k": [1, {"x": "y"}]}))).unwrap(), json!({"k": [1, {"x": "y"}]}));
    }
}
