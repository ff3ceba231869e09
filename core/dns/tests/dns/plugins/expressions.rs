//! The language of `view` and `template`.

use proptest::prelude::*;
use sealane_dns::expression::{Known, Program, Scope, Value};

struct Nothing;

impl Scope for Nothing {
    fn call(&self, name: &str, _: &[Value]) -> Option<Result<Value, String>> {
        (name == "name").then(|| Ok("www.example.".into()))
    }
}

fn run(text: &str) -> Result<Value, String> {
    let known = Known { variables: vec!["x".to_owned()], functions: &[] };
    let program = Program::read(text, &known).map_err(|error| format!("{}: {error}", error.at))?;
    program.run(&Nothing, &[("x".to_owned(), Value::Int(7))])
}

#[test]
fn values() {
    for (text, value) in [
        ("1 + 2 * 3", "7"),
        ("(1 + 2) * 3", "9"),
        ("2 ** 3 ** 2", "512"),
        ("-2 + 5", "3"),
        ("7 % 4", "3"),
        ("7 / 2", "3.5"),
        ("0x1f + 1_000", "1031"),
        ("1.5e1", "15"),
        ("'a' + \"b\" + `c`", "abc"),
        ("'\\x41\\u00e9\\n' == \"Aé\n\"", "true"),
        ("1 == 1.0", "true"),
        ("1 < 2 and 2 <= 2 && !(3 > 4)", "true"),
        ("false or not true || nil == nil", "true"),
        ("x == 7 ? 'yes' : 'no'", "yes"),
        ("nil ?? 3", "3"),
        ("'a' in ['a', 'b']", "true"),
        ("'c' not in ['a', 'b']", "true"),
        ("'k' in {k: 1}", "true"),
        ("3 in 1..5", "true"),
        ("name() matches '^www\\\\.'", "true"),
        ("name() not matches `^\\d`", "true"),
        ("name() contains 'exam' and name() startsWith 'www' and name() endsWith '.'", "true"),
        ("name()[0:3]", "www"),
        ("[1, 2, 3][-1]", "3"),
        ("[1, 2, 3][1:]", "[2 3]"),
        ("{a: {b: 5}}.a.b", "5"),
        ("{a: 1}?.b?.c", "<nil>"),
        ("len(split('a-b-c', '-'))", "3"),
        ("split('a-b', '-') | join('.')", "a.b"),
        ("replace('10-0-0-1', '-', '.')", "10.0.0.1"),
        ("any([1, 2], # > 1)", "true"),
        ("all([1, 2], {# > 1})", "false"),
        ("none([1, 2], # > 2) and one([1, 2], # > 1)", "true"),
        ("filter(1..5, # % 2 == 1)", "[1 3 5]"),
        ("map([{n: 1}, {n: 2}], .n * 2)", "[2 4]"),
        ("count([true, false])", "1"),
        ("find(['a', 'b'], # > 'a')", "b"),
        ("findIndex([1, 2], # == 3)", "-1"),
        ("[3, 1, 2] | sort() | map(#index * #) | sum()", "8"),
        ("sort([2, 1], 'desc')", "[2 1]"),
        ("max(1, 2.5, 2)", "2.5"),
        ("min([3, 2])", "2"),
        ("int('42') + int(1.9)", "43"),
        ("string(5) + upper('a') + trim(' b ') + trimSuffix('c.', '.')", "5Abc"),
        ("keys({b: 1, a: 2})", "[a b]"),
        ("bitand(12, 10) + bitshl(1, 4)", "24"),
        ("let y = x + 1; y * 2", "16"),
        ("flatten([1, [2, [3]]]) == concat([1], [2, 3])", "true"),
    ] {
        assert_eq!(run(text).map(|value| value.to_string()).as_deref(), Ok(value), "{text}");
    }
}

#[test]
fn refused() {
    for (text, why) in [
        ("", "0: a value is missing here"),
        ("1 +", "3: a value is missing here"),
        ("1 2", "2: this is too much"),
        ("(1", "2: ')' is missing here"),
        ("'a", "0: this quote never ends"),
        ("'\\q'", "1: this escape is none"),
        ("a == 1", "0: 'a' is no variable"),
        ("name == 'a'", "0: 'name' is no variable; write name()"),
        ("now()", "0: 'now' is no function that there is"),
        ("1 + len()", "4: 'len' does not take 0 arguments"),
        ("name() matches '('", "15: '(' is no regular expression"),
        ("# > 1", "0: a value is missing here"),
        ("any([1])", "7: 'any' needs a condition"),
        ("1 @ 2", "2: '@' means nothing here"),
        ("let x = 1; 2", "4: 'x' has a meaning already"),
        ("1 + 'a'", "2: '+' never goes with number and string"),
        ("not 1", "4: number is no bool"),
        ("x > 1 and name()", "6: 'and' never goes with bool and string"),
        ("'a' in 'abc'", "4: 'in' never goes with string and string"),
        // These are seen only when they run.
        ("x + 'a'", "'+' does not go with int and string"),
        ("not x", "int is no bool"),
        ("x < 'a'", "int and string have no order"),
        ("'a' in x", "nothing is in int"),
        ("5 % 0", "division by zero"),
        ("[1][1]", "there is no element 1"),
        ("map(['a'], repeat(#, 100000))", "repeat: the text would be too long"),
        ("1..1000000", "'..' needs two whole numbers that are not too far apart"),
    ] {
        assert_eq!(run(text), Err(why.to_owned()), "{text}");
    }
    assert!(run(&"(".repeat(5000)).is_err());
    assert!(run(&"!".repeat(5000)).is_err());
    assert!(run(&"-".repeat(5000)).is_err());
}

proptest! {
    /// Whatever is read, nothing panics.
    #[test]
    fn any_text(text in "[-+*/%^<>!?:,.()\\[\\]{}#|=; 'a1xé\\\\]{0,24}|(not |x|1|in |\\(|\\)|\\[|\\]|any|, |# |\\.\\.|'a'| matches |\\?\\?){0,12}") {
        let _ = run(&text);
    }

    /// Sums are Rust's.
    #[test]
    fn sums(a in -1000i64..1000, b in -1000i64..1000, c in -1000i64..1000) {
        prop_assert_eq!(run(&format!("{a} + {b} * {c} - ({a})")), Ok(Value::Int(b * c)));
    }
}
