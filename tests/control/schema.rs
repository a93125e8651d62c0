//! A checker for JSON Schema, as far as `contrib/control.schema.json` uses it. A keyword that it does not know fails
//! the test, so that nothing in the schema is without effect.

use serde_json::Value;

/// The schema of the control socket.
pub fn schema() -> Value {
    serde_json::from_str(include_str!("../../contrib/control.schema.json")).unwrap()
}

/// What is wrong with `value` by the definition `name`, if anything.
pub fn errors(root: &Value, name: &str, value: &Value) -> Option<String> {
    check(root, &root["$defs"][name], value).err().map(|error| format!("{error}: {value}"))
}

fn check(root: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    for (keyword, argument) in schema.as_object().expect("a schema is an object") {
        match keyword.as_str() {
            "description" | "title" | "$schema" | "$defs" | "required" => {}
            "$ref" => {
                let name = argument.as_str().and_then(|path| path.strip_prefix("#/$defs/"));
                let found = &root["$defs"][name.expect("a local reference")];
                assert!(found.is_object(), "{argument} leads nowhere");
                check(root, found, value)?;
            }
            "type" => has_type(argument, value)?,
            "const" if argument == value => {}
            "const" => return Err(format!("{argument} is expected")),
            "enum" => {
                let words = argument.as_array().expect("a list");
                words.iter().find(|word| *word == value).ok_or(format!("one of {argument}"))?;
            }
            "minimum" => {
                let least = argument.as_f64().unwrap();
                value
                    .as_f64()
                    .filter(|number| *number < least)
                    .map_or(Ok(()), |_| too_small(argument))?;
            }
            "maximum" => {
                let most = argument.as_f64().unwrap();
                value
                    .as_f64()
                    .filter(|number| *number > most)
                    .map_or(Ok(()), |_| too_large(argument))?;
            }
            "items" => {
                for item in value.as_array().into_iter().flatten() {
                    check(root, argument, item)?;
                }
            }
            "properties" | "additionalProperties" => {}
            "oneOf" => {
                let all = argument.as_array().expect("a list");
                let results: Vec<_> = all.iter().map(|one| check(root, one, value)).collect();
                let fits = results.iter().filter(|result| result.is_ok()).count();
                if fits != 1 {
                    return Err(format!("{fits} of {} fit: {results:?}", all.len()));
                }
            }
            _ => panic!("the keyword {keyword} is not known to the test"),
        }
    }
    check_object(root, schema, value)
}

fn too_small(least: &Value) -> Result<(), String> {
    Err(format!("{least} at least"))
}

fn too_large(most: &Value) -> Result<(), String> {
    Err(format!("{most} at most"))
}

fn check_object(root: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let Some(fields) = value.as_object() else { return Ok(()) };
    for name in schema["required"].as_array().into_iter().flatten() {
        let name = name.as_str().expect("a name");
        if !fields.contains_key(name) {
            return Err(format!("'{name}' is missing"));
        }
    }
    for (name, field) in fields {
        match (schema["properties"].get(name), &schema["additionalProperties"]) {
            (Some(one), _) => {
                check(root, one, field).map_err(|error| format!("{name}: {error}"))?;
            }
            (None, Value::Bool(false)) => return Err(format!("'{name}' is not known")),
            (None, rest) if rest.is_object() => check(root, rest, field)?,
            (None, _) => {}
        }
    }
    Ok(())
}

fn has_type(types: &Value, value: &Value) -> Result<(), String> {
    let is = |name: &Value| match name.as_str().expect("a type") {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        other => panic!("the type {other} is not known to the test"),
    };
    let fits = types.as_array().map_or_else(|| is(types), |all| all.iter().any(is));
    if fits { Ok(()) } else { Err(format!("{types} is expected")) }
}

#[test]
fn the_checker_finds_what_is_wrong() {
    let root = schema();
    let wrong = |name, text: &str| {
        let value: Value = serde_json::from_str(text).unwrap();
        errors(&root, name, &value).is_some()
    };
    assert!(!wrong("request", r#"{"command":"status"}"#));
    assert!(!wrong("request", r#"{"command":"flows","port":80,"tag":1}"#));
    for text in [
        r#"{}"#,
        r#"[]"#,
        r#"{"command":"x"}"#,
        r#"{"command":"status","x":1}"#,
        r#"{"command":"flows","port":70000}"#,
        r#"{"command":"flows","port":-1}"#,
        r#"{"command":"flows","port":"80"}"#,
        r#"{"command":"flow-reset"}"#,
        r#"{"command":"watch","events":["x"]}"#,
        r#"{"command":"rules-replace","rules":[{"proto":"tcp"}]}"#,
    ] {
        assert!(wrong("request", text), "{text}");
    }
    assert!(wrong("reply", r#"{"ok":true,"command":"rules","result":{"rules":[{}]}}"#));
    assert!(wrong("event", r#"{"event":"lease","at_ms":1}"#));
}
