import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.Inet6Address;
import java.net.InetAddress;
import java.net.UnknownHostException;
import java.util.Hashtable;
import java.util.TreeSet;
import javax.naming.NameNotFoundException;
import javax.naming.directory.Attribute;
import javax.naming.directory.InitialDirContext;

/**
 * Java's two resolvers as clients: `Lookup inet` is InetAddress, `Lookup SERVER` JNDI's DNS provider. Reads
 * questions, `KIND NAME` a line; answers each with a line: its values in order, `-` where there are none.
 */
public class Lookup {
    static TreeSet<String> inet(String kind, String name) throws Exception {
        TreeSet<String> found = new TreeSet<>();
        if (kind.equals("PTR")) {
            InetAddress address = InetAddress.getByName(name);
            String host = address.getCanonicalHostName();
            // It says the address again where there is no name.
            if (!host.equals(address.getHostAddress())) {
                found.add(host);
            }
            return found;
        }
        for (InetAddress address : InetAddress.getAllByName(name)) {
            boolean six = address instanceof Inet6Address;
            if (kind.equals("BOTH") || six == kind.equals("AAAA")) {
                found.add(address.getHostAddress());
            }
        }
        return found;
    }

    static String reverse(byte[] address) {
        StringBuilder name = new StringBuilder();
        for (int i = address.length - 1; i >= 0; i--) {
            int octet = address[i] & 0xff;
            if (address.length == 4) {
                name.append(octet).append('.');
            } else {
                name.append(String.format("%x.%x.", octet & 15, octet >> 4));
            }
        }
        return name + (address.length == 4 ? "in-addr.arpa" : "ip6.arpa");
    }

    static TreeSet<String> jndi(InitialDirContext context, String kind, String name) throws Exception {
        TreeSet<String> found = new TreeSet<>();
        if (kind.equals("PTR")) {
            name = reverse(InetAddress.getByName(name).getAddress());
        }
        Attribute all = context.getAttributes(name, new String[] {kind}).get(kind);
        for (int i = 0; all != null && i < all.size(); i++) {
            String text = all.get(i).toString();
            if (kind.equals("SRV")) {
                text = text.replace(' ', ':');
            }
            found.add(text.replaceAll("\\.$", ""));
        }
        return found;
    }

    public static void main(String[] arguments) throws Exception {
        String server = arguments[0];
        InitialDirContext context = null;
        if (!server.equals("inet")) {
            Hashtable<String, String> environment = new Hashtable<>();
            environment.put("java.naming.factory.initial", "com.sun.jndi.dns.DnsContextFactory");
            environment.put("java.naming.provider.url", "dns://" + server);
            context = new InitialDirContext(environment);
        }
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            String[] words = line.split(" ");
            try {
                TreeSet<String> found =
                    context == null ? inet(words[0], words[1]) : jndi(context, words[0], words[1]);
                System.out.println(found.isEmpty() ? "-" : String.join(" ", found));
            } catch (UnknownHostException | NameNotFoundException e) {
                System.out.println("-");
            } catch (Exception e) {
                System.out.println("error: " + e);
            }
        }
    }
}
